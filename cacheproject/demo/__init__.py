"""The demo site: articles that are read through the ring and whose views are counted behind."""
