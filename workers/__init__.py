"""This project's Celery workers: the app, its queues and routes.

The tasks themselves belong to ``cachebackend.tasks``; another project writes its own app.
"""
