"""Code that training and evaluation share: loading, rows of tokens, attention, loss."""
