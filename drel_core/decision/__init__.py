"""What is added to scores, and which tags are predicted from them."""
