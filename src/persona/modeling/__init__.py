"""What training and evaluation share: loading, rows of tokens, attention, loss."""
