"""Turns prompts and completions into token ids that fit into the context of a model."""
