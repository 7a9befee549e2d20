"""Runs agents in processes of their own. agent-host starts it in one of two ways:

- cold, `python -m rustic_ai.k8s.runtime`: a fresh interpreter for one agent, whose standard input is a socket to the
  host;
- warm, `python -m rustic_ai.k8s.runtime.zygote`: an interpreter that has everything imported and forks a ready child
  for every agent; each child gets a socket of its own.

Over its socket a child gets the launch document (one JSON object, then end of file) and sends reports (each one JSON object
and a line end). What it is at work on stands in a page that it shares with the host (`state`). Nothing travels through arguments or environment, and no pickle anywhere.
"""
