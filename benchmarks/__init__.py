"""One file a question; the answers are in dated Markdown beside them."""
