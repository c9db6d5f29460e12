"""What clients and stores prove themselves with: profiles, secret references, keys."""
