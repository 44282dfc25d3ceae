"""What was trained, in use: prompts for any user and item, texts, likelihoods, and what moved them."""
