"""What a run of the workflow prints on the terminal: a line for each job. Snakemake's other words stay in its log."""

from __future__ import annotations

import logging

# Events and messages of Snakemake that tell a user nothing. Other warnings and errors are always shown.
SILENT_EVENTS = {"workflow_started", "run_info", "resources_info", "job_started", "job_finished", "shellcmd"}
SILENT_MESSAGES = (
    "Select jobs to execute",
    "Building DAG of jobs",
    "Using shell",
    "Conda environments",
    "Assuming unrestricted shared filesystem",
    "Provided ",
    "Rules claiming more threads",
    "host:",
    "Complete log(s)",
    "Elapsed time",
)


# What follows the reason of a failure, which the job itself has told.
SILENT_AFTER_ERRORS = (
    "RuleException:\nCalledProcessError in file",
    "Shutting down, this might take some time",
    "Exiting because a job execution failed",
    "WorkflowError:\nAt least one job did not complete successfully",
)


class JobLines(logging.Formatter):
    """Formats the start of a job as `3/42 render two_per_user/history` and leaves out what `SILENT_` names.

    It is also the handler's filter, because Snakemake's handler writes empty lines around what is formatted as nothing.
    """

    def __init__(self, otherwise: logging.Formatter) -> None:
        super().__init__()
        self.otherwise = otherwise
        self.done = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        event = getattr(record, "event", None)
        if event == "progress":
            self.done = f"{record.__dict__['done']}/{record.__dict__['total']} "
            return False
        message = record.getMessage()
        if message.startswith(SILENT_AFTER_ERRORS):
            return False
        is_silent = event in SILENT_EVENTS or message.startswith(SILENT_MESSAGES)
        return record.levelno >= logging.WARNING or not is_silent

    def format(self, record: logging.LogRecord) -> str:
        """The line of the record."""
        event, fields = getattr(record, "event", None), record.__dict__
        if event not in ("job_info", "job_error"):
            return self.otherwise.format(record)
        works_on = "/".join(map(str, dict(fields.get("wildcards") or {}).values()))
        name = f"{fields['rule_name']} {works_on}".strip()
        if event == "job_info":
            return f"{self.done}{name}"
        return f"failed: {name}; its log: {', '.join(map(str, fields['log']))}"
