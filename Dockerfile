# The workflow with the packages of requirements.lock. CONTRIBUTING.md says how to build and run it.
FROM python:3.11-slim-bookworm

# Triton compiles its GPU launcher with gcc when it is first used.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/persona
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock

COPY pyproject.toml README.md LICENSE Snakefile ./
COPY src src
COPY workflow workflow
COPY config config
COPY profiles profiles
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .

WORKDIR /workspace
ENTRYPOINT ["snakemake", "--snakefile", "/opt/persona/Snakefile"]
CMD ["--help"]
