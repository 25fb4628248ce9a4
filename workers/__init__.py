"""The Celery side: thin tasks over the plain functions of ``cachebackend``.

``tasks`` may run twice at once and any number of times; ``schedule`` says when. Nothing
in ``cachebackend`` knows of this package.
"""
