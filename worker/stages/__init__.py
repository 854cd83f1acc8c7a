"""The Celery tasks: thin adapters that hand messages to the plain functions."""
