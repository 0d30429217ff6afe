"""Authentication: challenges, logins, tokens, and requests that bear them."""
