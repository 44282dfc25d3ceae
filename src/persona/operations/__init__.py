"""Commands for people: status, disk, cancel."""
