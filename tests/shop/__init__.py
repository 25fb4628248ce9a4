"""Models of the tests' own: children, proxies, relations, keys and columns of every kind."""
