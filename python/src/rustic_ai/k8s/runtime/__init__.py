"""Runs one agent in this process. agent-host starts it as `python -m rustic_ai.k8s.runtime`.

Standard input is a socket to the host: the launch document comes in (one JSON object, then end of file), one report
goes out (one JSON object and a line end). Nothing travels through arguments or environment, and no pickle anywhere.
"""
