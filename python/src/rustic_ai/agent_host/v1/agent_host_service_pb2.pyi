import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from rustic_ai.agent.v1 import agent_pb2 as _agent_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FirstStart(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIRST_START_UNSPECIFIED: _ClassVar[FirstStart]
    FIRST_START_FAIL: _ClassVar[FirstStart]
    FIRST_START_FAIL_IF_WRONG: _ClassVar[FirstStart]

class StopPurpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STOP_PURPOSE_UNSPECIFIED: _ClassVar[StopPurpose]
    STOP_PURPOSE_REMOVE: _ClassVar[StopPurpose]
    STOP_PURPOSE_DRAIN: _ClassVar[StopPurpose]
    STOP_PURPOSE_RESTART: _ClassVar[StopPurpose]
    STOP_PURPOSE_REBALANCE: _ClassVar[StopPurpose]

class AtWorkPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AT_WORK_POLICY_UNSPECIFIED: _ClassVar[AtWorkPolicy]
    AT_WORK_POLICY_FINISH: _ClassVar[AtWorkPolicy]
    AT_WORK_POLICY_REFUSE: _ClassVar[AtWorkPolicy]
FIRST_START_UNSPECIFIED: FirstStart
FIRST_START_FAIL: FirstStart
FIRST_START_FAIL_IF_WRONG: FirstStart
STOP_PURPOSE_UNSPECIFIED: StopPurpose
STOP_PURPOSE_REMOVE: StopPurpose
STOP_PURPOSE_DRAIN: StopPurpose
STOP_PURPOSE_RESTART: StopPurpose
STOP_PURPOSE_REBALANCE: StopPurpose
AT_WORK_POLICY_UNSPECIFIED: AtWorkPolicy
AT_WORK_POLICY_FINISH: AtWorkPolicy
AT_WORK_POLICY_REFUSE: AtWorkPolicy

class Claim(_message.Message):
    __slots__ = ("incarnation", "epoch", "machine_id", "devices")
    class DevicesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _agent_pb2.DevicePart
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_agent_pb2.DevicePart, _Mapping]] = ...) -> None: ...
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MACHINE_ID_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    epoch: int
    machine_id: int
    devices: _containers.MessageMap[str, _agent_pb2.DevicePart]
    def __init__(self, incarnation: _Optional[str] = ..., epoch: _Optional[int] = ..., machine_id: _Optional[int] = ..., devices: _Optional[_Mapping[str, _agent_pb2.DevicePart]] = ...) -> None: ...

class CreateAgentRequest(_message.Message):
    __slots__ = ("request_id", "launch", "wait", "claim", "first_start")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LAUNCH_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    FIRST_START_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    launch: _agent_pb2.AgentLaunch
    wait: _agent_pb2.WaitMode
    claim: Claim
    first_start: FirstStart
    def __init__(self, request_id: _Optional[str] = ..., launch: _Optional[_Union[_agent_pb2.AgentLaunch, _Mapping]] = ..., wait: _Optional[_Union[_agent_pb2.WaitMode, str]] = ..., claim: _Optional[_Union[Claim, _Mapping]] = ..., first_start: _Optional[_Union[FirstStart, str]] = ...) -> None: ...

class CreateAgentResponse(_message.Message):
    __slots__ = ("agent", "timings")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    agent: _agent_pb2.Agent
    timings: _agent_pb2.StartTimings
    def __init__(self, agent: _Optional[_Union[_agent_pb2.Agent, _Mapping]] = ..., timings: _Optional[_Union[_agent_pb2.StartTimings, _Mapping]] = ...) -> None: ...

class StopAgentRequest(_message.Message):
    __slots__ = ("organization_id", "guild_id", "agent_id", "timeout", "claim", "purpose", "at_work")
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    GUILD_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    AT_WORK_FIELD_NUMBER: _ClassVar[int]
    organization_id: str
    guild_id: str
    agent_id: str
    timeout: _duration_pb2.Duration
    claim: Claim
    purpose: StopPurpose
    at_work: AtWorkPolicy
    def __init__(self, organization_id: _Optional[str] = ..., guild_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., claim: _Optional[_Union[Claim, _Mapping]] = ..., purpose: _Optional[_Union[StopPurpose, str]] = ..., at_work: _Optional[_Union[AtWorkPolicy, str]] = ...) -> None: ...

class StopAgentResponse(_message.Message):
    __slots__ = ("exit",)
    EXIT_FIELD_NUMBER: _ClassVar[int]
    exit: _agent_pb2.LastExit
    def __init__(self, exit: _Optional[_Union[_agent_pb2.LastExit, _Mapping]] = ...) -> None: ...

class GetAgentRequest(_message.Message):
    __slots__ = ("organization_id", "guild_id", "agent_id")
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    GUILD_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    organization_id: str
    guild_id: str
    agent_id: str
    def __init__(self, organization_id: _Optional[str] = ..., guild_id: _Optional[str] = ..., agent_id: _Optional[str] = ...) -> None: ...

class GetAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: _agent_pb2.Agent
    def __init__(self, agent: _Optional[_Union[_agent_pb2.Agent, _Mapping]] = ...) -> None: ...

class ListAgentsRequest(_message.Message):
    __slots__ = ("organization_id", "guild_id", "page_size", "page_token", "with_usage")
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    GUILD_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WITH_USAGE_FIELD_NUMBER: _ClassVar[int]
    organization_id: str
    guild_id: str
    page_size: int
    page_token: str
    with_usage: bool
    def __init__(self, organization_id: _Optional[str] = ..., guild_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., with_usage: bool = ...) -> None: ...

class ListAgentsResponse(_message.Message):
    __slots__ = ("agents", "next_page_token")
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    agents: _containers.RepeatedCompositeFieldContainer[_agent_pb2.Agent]
    next_page_token: str
    def __init__(self, agents: _Optional[_Iterable[_Union[_agent_pb2.Agent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthResponse(_message.Message):
    __slots__ = ("healthy", "agent_count", "host_id", "reason", "profiles", "confinement")
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    AGENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    CONFINEMENT_FIELD_NUMBER: _ClassVar[int]
    healthy: bool
    agent_count: int
    host_id: str
    reason: str
    profiles: _containers.RepeatedCompositeFieldContainer[RuntimeProfile]
    confinement: _agent_pb2.ConfinementStatus
    def __init__(self, healthy: bool = ..., agent_count: _Optional[int] = ..., host_id: _Optional[str] = ..., reason: _Optional[str] = ..., profiles: _Optional[_Iterable[_Union[RuntimeProfile, _Mapping]]] = ..., confinement: _Optional[_Union[_agent_pb2.ConfinementStatus, _Mapping]] = ...) -> None: ...

class RuntimeProfile(_message.Message):
    __slots__ = ("name", "zygote", "cold_starts", "generation", "branches", "not_shared")
    class NotSharedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    ZYGOTE_FIELD_NUMBER: _ClassVar[int]
    COLD_STARTS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    BRANCHES_FIELD_NUMBER: _ClassVar[int]
    NOT_SHARED_FIELD_NUMBER: _ClassVar[int]
    name: str
    zygote: str
    cold_starts: int
    generation: int
    branches: _containers.RepeatedCompositeFieldContainer[ZygoteBranch]
    not_shared: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., zygote: _Optional[str] = ..., cold_starts: _Optional[int] = ..., generation: _Optional[int] = ..., branches: _Optional[_Iterable[_Union[ZygoteBranch, _Mapping]]] = ..., not_shared: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ZygoteBranch(_message.Message):
    __slots__ = ("packages", "modules", "private_bytes", "pid")
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    MODULES_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    packages: _containers.RepeatedScalarFieldContainer[str]
    modules: int
    private_bytes: int
    pid: int
    def __init__(self, packages: _Optional[_Iterable[str]] = ..., modules: _Optional[int] = ..., private_bytes: _Optional[int] = ..., pid: _Optional[int] = ...) -> None: ...
