"""Chaos: real Redis, engines, hosts and agents on addresses of their own, hurt in many ways, and what was found."""
