"""The configuration: its models, its checks, its reference table. Only the Snakefile imports this package."""
