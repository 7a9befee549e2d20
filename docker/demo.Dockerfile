# agent-host with the agents that examples/ping_pong_guild.py launches; they come from rusticai-testing.
ARG BASE=agent-host:0.1.0
FROM ${BASE}
USER 0:0
RUN pip install --no-cache-dir --disable-pip-version-check rusticai-testing==1.4.0
USER 10001:10001
