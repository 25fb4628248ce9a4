"""Django's management commands of the app; each prints JSON on demand and exits non-zero when not well."""
