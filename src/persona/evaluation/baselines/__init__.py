"""What costs nothing and has to be beaten. Fitted on the training users, tuned on val, scored on test."""
