"""Phoenix in a pipeline: retrieval and ranking by trained models, and the command that trains them."""
