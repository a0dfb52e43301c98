"""Model and training step: towers, tag embeddings, losses, miners, samplers, the pooled step."""
