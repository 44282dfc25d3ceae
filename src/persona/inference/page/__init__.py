"""The page on which a trained stage is tried in a browser, on this machine alone."""
