"""A page that shows what a model does: figures, pictures, curves."""
