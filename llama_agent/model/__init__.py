"""Messages become a reply."""
