"""One file a question. The answers, with their commands: docs/performance.md, docs/results.md."""
