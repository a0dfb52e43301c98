"""From encoded pictures to pixels and features."""
