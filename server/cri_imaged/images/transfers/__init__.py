"""Fetches and unpacks that pulls share."""
