import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from rustic_ai.agent.v1 import agent_pb2 as _agent_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ForceMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FORCE_MODE_UNSPECIFIED: _ClassVar[ForceMode]
    FORCE_MODE_NONE: _ClassVar[ForceMode]
    FORCE_MODE_RETIRED_HOST: _ClassVar[ForceMode]

class PendingPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PENDING_POLICY_UNSPECIFIED: _ClassVar[PendingPolicy]
    PENDING_POLICY_REFUSE: _ClassVar[PendingPolicy]
    PENDING_POLICY_WAIT_FOR_ROOM: _ClassVar[PendingPolicy]
    PENDING_POLICY_WAIT_FOR_ANY_HOST: _ClassVar[PendingPolicy]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_FITS: _ClassVar[Verdict]
    VERDICT_NO_ROOM: _ClassVar[Verdict]
    VERDICT_TOO_SMALL: _ClassVar[Verdict]
    VERDICT_DRAINING: _ClassVar[Verdict]
    VERDICT_SILENT: _ClassVar[Verdict]

class HostState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HOST_STATE_UNSPECIFIED: _ClassVar[HostState]
    HOST_STATE_READY: _ClassVar[HostState]
    HOST_STATE_DRAINING: _ClassVar[HostState]
    HOST_STATE_EXPIRED: _ClassVar[HostState]
FORCE_MODE_UNSPECIFIED: ForceMode
FORCE_MODE_NONE: ForceMode
FORCE_MODE_RETIRED_HOST: ForceMode
PENDING_POLICY_UNSPECIFIED: PendingPolicy
PENDING_POLICY_REFUSE: PendingPolicy
PENDING_POLICY_WAIT_FOR_ROOM: PendingPolicy
PENDING_POLICY_WAIT_FOR_ANY_HOST: PendingPolicy
VERDICT_UNSPECIFIED: Verdict
VERDICT_FITS: Verdict
VERDICT_NO_ROOM: Verdict
VERDICT_TOO_SMALL: Verdict
VERDICT_DRAINING: Verdict
VERDICT_SILENT: Verdict
HOST_STATE_UNSPECIFIED: HostState
HOST_STATE_READY: HostState
HOST_STATE_DRAINING: HostState
HOST_STATE_EXPIRED: HostState

class CreateAgentRequest(_message.Message):
    __slots__ = ("request_id", "launch", "wait", "pending")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LAUNCH_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    launch: _agent_pb2.AgentLaunch
    wait: _agent_pb2.WaitMode
    pending: PendingPolicy
    def __init__(self, request_id: _Optional[str] = ..., launch: _Optional[_Union[_agent_pb2.AgentLaunch, _Mapping]] = ..., wait: _Optional[_Union[_agent_pb2.WaitMode, str]] = ..., pending: _Optional[_Union[PendingPolicy, str]] = ...) -> None: ...

class CreateAgentResponse(_message.Message):
    __slots__ = ("agent", "timings")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    agent: _agent_pb2.Agent
    timings: _agent_pb2.StartTimings
    def __init__(self, agent: _Optional[_Union[_agent_pb2.Agent, _Mapping]] = ..., timings: _Optional[_Union[_agent_pb2.StartTimings, _Mapping]] = ...) -> None: ...

class StopAgentRequest(_message.Message):
    __slots__ = ("organization_id", "guild_id", "agent_id", "timeout", "force")
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    GUILD_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    organization_id: str
    guild_id: str
    agent_id: str
    timeout: _duration_pb2.Duration
    force: ForceMode
    def __init__(self, organization_id: _Optional[str] = ..., guild_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., force: _Optional[_Union[ForceMode, str]] = ...) -> None: ...

class StopAgentResponse(_message.Message):
    __slots__ = ("exit",)
    EXIT_FIELD_NUMBER: _ClassVar[int]
    exit: _agent_pb2.LastExit
    def __init__(self, exit: _Optional[_Union[_agent_pb2.LastExit, _Mapping]] = ...) -> None: ...

class RestartAgentRequest(_message.Message):
    __slots__ = ("organization_id", "guild_id", "agent_id", "timeout", "wait")
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    GUILD_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    organization_id: str
    guild_id: str
    agent_id: str
    timeout: _duration_pb2.Duration
    wait: _agent_pb2.WaitMode
    def __init__(self, organization_id: _Optional[str] = ..., guild_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., wait: _Optional[_Union[_agent_pb2.WaitMode, str]] = ...) -> None: ...

class RestartAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: _agent_pb2.Agent
    def __init__(self, agent: _Optional[_Union[_agent_pb2.Agent, _Mapping]] = ...) -> None: ...

class StopGuildRequest(_message.Message):
    __slots__ = ("organization_id", "guild_id", "timeout")
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    GUILD_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    organization_id: str
    guild_id: str
    timeout: _duration_pb2.Duration
    def __init__(self, organization_id: _Optional[str] = ..., guild_id: _Optional[str] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class StopGuildResponse(_message.Message):
    __slots__ = ("stopped",)
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    stopped: int
    def __init__(self, stopped: _Optional[int] = ...) -> None: ...

class GetAgentRequest(_message.Message):
    __slots__ = ("organization_id", "guild_id", "agent_id", "view")
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    GUILD_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    organization_id: str
    guild_id: str
    agent_id: str
    view: _agent_pb2.AgentView
    def __init__(self, organization_id: _Optional[str] = ..., guild_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., view: _Optional[_Union[_agent_pb2.AgentView, str]] = ...) -> None: ...

class GetAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: _agent_pb2.Agent
    def __init__(self, agent: _Optional[_Union[_agent_pb2.Agent, _Mapping]] = ...) -> None: ...

class ListAgentsRequest(_message.Message):
    __slots__ = ("organization_id", "guild_id", "name", "host_id", "phase", "page_size", "page_token", "view")
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    GUILD_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    organization_id: str
    guild_id: str
    name: str
    host_id: str
    phase: _agent_pb2.AgentPhase
    page_size: int
    page_token: str
    view: _agent_pb2.AgentView
    def __init__(self, organization_id: _Optional[str] = ..., guild_id: _Optional[str] = ..., name: _Optional[str] = ..., host_id: _Optional[str] = ..., phase: _Optional[_Union[_agent_pb2.AgentPhase, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., view: _Optional[_Union[_agent_pb2.AgentView, str]] = ...) -> None: ...

class ListAgentsResponse(_message.Message):
    __slots__ = ("agents", "next_page_token")
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    agents: _containers.RepeatedCompositeFieldContainer[_agent_pb2.Agent]
    next_page_token: str
    def __init__(self, agents: _Optional[_Iterable[_Union[_agent_pb2.Agent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchAgentsRequest(_message.Message):
    __slots__ = ("organization_id", "guild_id", "agent_id", "revision", "view")
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    GUILD_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    organization_id: str
    guild_id: str
    agent_id: str
    revision: str
    view: _agent_pb2.AgentView
    def __init__(self, organization_id: _Optional[str] = ..., guild_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., revision: _Optional[str] = ..., view: _Optional[_Union[_agent_pb2.AgentView, str]] = ...) -> None: ...

class WatchAgentsResponse(_message.Message):
    __slots__ = ("agent", "removed", "bookmark", "revision")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    agent: _agent_pb2.Agent
    removed: RemovedAgent
    bookmark: Bookmark
    revision: str
    def __init__(self, agent: _Optional[_Union[_agent_pb2.Agent, _Mapping]] = ..., removed: _Optional[_Union[RemovedAgent, _Mapping]] = ..., bookmark: _Optional[_Union[Bookmark, _Mapping]] = ..., revision: _Optional[str] = ...) -> None: ...

class RemovedAgent(_message.Message):
    __slots__ = ("organization_id", "guild_id", "agent_id", "epoch")
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    GUILD_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    organization_id: str
    guild_id: str
    agent_id: str
    epoch: int
    def __init__(self, organization_id: _Optional[str] = ..., guild_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class Bookmark(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListHostsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListHostsResponse(_message.Message):
    __slots__ = ("hosts", "next_page_token")
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    hosts: _containers.RepeatedCompositeFieldContainer[Host]
    next_page_token: str
    def __init__(self, hosts: _Optional[_Iterable[_Union[Host, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ExplainPlacementRequest(_message.Message):
    __slots__ = ("organization_id", "guild_id", "agent_id", "launch")
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    GUILD_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    LAUNCH_FIELD_NUMBER: _ClassVar[int]
    organization_id: str
    guild_id: str
    agent_id: str
    launch: _agent_pb2.AgentLaunch
    def __init__(self, organization_id: _Optional[str] = ..., guild_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., launch: _Optional[_Union[_agent_pb2.AgentLaunch, _Mapping]] = ...) -> None: ...

class ExplainPlacementResponse(_message.Message):
    __slots__ = ("hosts", "demand", "message", "host_id")
    class DemandEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    hosts: _containers.RepeatedCompositeFieldContainer[HostVerdict]
    demand: _containers.ScalarMap[str, float]
    message: str
    host_id: str
    def __init__(self, hosts: _Optional[_Iterable[_Union[HostVerdict, _Mapping]]] = ..., demand: _Optional[_Mapping[str, float]] = ..., message: _Optional[str] = ..., host_id: _Optional[str] = ...) -> None: ...

class HostVerdict(_message.Message):
    __slots__ = ("host_id", "verdict", "message", "load")
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    host_id: str
    verdict: Verdict
    message: str
    load: float
    def __init__(self, host_id: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., message: _Optional[str] = ..., load: _Optional[float] = ...) -> None: ...

class Host(_message.Message):
    __slots__ = ("host_id", "address", "state", "incarnation", "lease_expiry_time", "capacity", "used", "labels", "version", "dns_name", "devices")
    class CapacityEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class UsedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LEASE_EXPIRY_TIME_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DNS_NAME_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    host_id: str
    address: str
    state: HostState
    incarnation: str
    lease_expiry_time: _timestamp_pb2.Timestamp
    capacity: _containers.ScalarMap[str, float]
    used: _containers.ScalarMap[str, float]
    labels: _containers.ScalarMap[str, str]
    version: str
    dns_name: str
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    def __init__(self, host_id: _Optional[str] = ..., address: _Optional[str] = ..., state: _Optional[_Union[HostState, str]] = ..., incarnation: _Optional[str] = ..., lease_expiry_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., capacity: _Optional[_Mapping[str, float]] = ..., used: _Optional[_Mapping[str, float]] = ..., labels: _Optional[_Mapping[str, str]] = ..., version: _Optional[str] = ..., dns_name: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("device_id", "memory_bytes", "used", "used_memory_bytes")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    USED_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    memory_bytes: int
    used: float
    used_memory_bytes: int
    def __init__(self, device_id: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., used: _Optional[float] = ..., used_memory_bytes: _Optional[int] = ...) -> None: ...

class DrainHostRequest(_message.Message):
    __slots__ = ("host_id", "force")
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    host_id: str
    force: ForceMode
    def __init__(self, host_id: _Optional[str] = ..., force: _Optional[_Union[ForceMode, str]] = ...) -> None: ...

class DrainHostResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UndrainHostRequest(_message.Message):
    __slots__ = ("host_id",)
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    host_id: str
    def __init__(self, host_id: _Optional[str] = ...) -> None: ...

class UndrainHostResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
