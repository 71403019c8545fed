"""Thunder: an in-memory store of recent posts by author, and the source of posts by the people a viewer follows."""
