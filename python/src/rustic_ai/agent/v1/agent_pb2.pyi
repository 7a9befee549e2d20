import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGENT_PHASE_UNSPECIFIED: _ClassVar[AgentPhase]
    AGENT_PHASE_PENDING: _ClassVar[AgentPhase]
    AGENT_PHASE_STARTING: _ClassVar[AgentPhase]
    AGENT_PHASE_RUNNING: _ClassVar[AgentPhase]
    AGENT_PHASE_RESTARTING: _ClassVar[AgentPhase]
    AGENT_PHASE_STOPPING: _ClassVar[AgentPhase]
    AGENT_PHASE_FAILED: _ClassVar[AgentPhase]

class WaitMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WAIT_MODE_UNSPECIFIED: _ClassVar[WaitMode]
    WAIT_MODE_RUNNING: _ClassVar[WaitMode]
    WAIT_MODE_ACCEPTED: _ClassVar[WaitMode]
    WAIT_MODE_LAUNCHED: _ClassVar[WaitMode]

class OnDisconnect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_DISCONNECT_UNSPECIFIED: _ClassVar[OnDisconnect]
    ON_DISCONNECT_STOP: _ClassVar[OnDisconnect]
    ON_DISCONNECT_KEEP: _ClassVar[OnDisconnect]

class RestartMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESTART_MODE_UNSPECIFIED: _ClassVar[RestartMode]
    RESTART_MODE_NEVER: _ClassVar[RestartMode]
    RESTART_MODE_ON_FAILURE: _ClassVar[RestartMode]
    RESTART_MODE_ALWAYS: _ClassVar[RestartMode]

class ConfinementLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONFINEMENT_LEVEL_UNSPECIFIED: _ClassVar[ConfinementLevel]
    CONFINEMENT_LEVEL_OFF: _ClassVar[ConfinementLevel]
    CONFINEMENT_LEVEL_STANDARD: _ClassVar[ConfinementLevel]
    CONFINEMENT_LEVEL_STRICT: _ClassVar[ConfinementLevel]

class AntiAffinityScope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANTI_AFFINITY_SCOPE_UNSPECIFIED: _ClassVar[AntiAffinityScope]
    ANTI_AFFINITY_SCOPE_GUILD: _ClassVar[AntiAffinityScope]
    ANTI_AFFINITY_SCOPE_NAME: _ClassVar[AntiAffinityScope]
    ANTI_AFFINITY_SCOPE_GROUP: _ClassVar[AntiAffinityScope]

class AgentView(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGENT_VIEW_UNSPECIFIED: _ClassVar[AgentView]
    AGENT_VIEW_BASIC: _ClassVar[AgentView]
    AGENT_VIEW_FULL: _ClassVar[AgentView]
AGENT_PHASE_UNSPECIFIED: AgentPhase
AGENT_PHASE_PENDING: AgentPhase
AGENT_PHASE_STARTING: AgentPhase
AGENT_PHASE_RUNNING: AgentPhase
AGENT_PHASE_RESTARTING: AgentPhase
AGENT_PHASE_STOPPING: AgentPhase
AGENT_PHASE_FAILED: AgentPhase
WAIT_MODE_UNSPECIFIED: WaitMode
WAIT_MODE_RUNNING: WaitMode
WAIT_MODE_ACCEPTED: WaitMode
WAIT_MODE_LAUNCHED: WaitMode
ON_DISCONNECT_UNSPECIFIED: OnDisconnect
ON_DISCONNECT_STOP: OnDisconnect
ON_DISCONNECT_KEEP: OnDisconnect
RESTART_MODE_UNSPECIFIED: RestartMode
RESTART_MODE_NEVER: RestartMode
RESTART_MODE_ON_FAILURE: RestartMode
RESTART_MODE_ALWAYS: RestartMode
CONFINEMENT_LEVEL_UNSPECIFIED: ConfinementLevel
CONFINEMENT_LEVEL_OFF: ConfinementLevel
CONFINEMENT_LEVEL_STANDARD: ConfinementLevel
CONFINEMENT_LEVEL_STRICT: ConfinementLevel
ANTI_AFFINITY_SCOPE_UNSPECIFIED: AntiAffinityScope
ANTI_AFFINITY_SCOPE_GUILD: AntiAffinityScope
ANTI_AFFINITY_SCOPE_NAME: AntiAffinityScope
ANTI_AFFINITY_SCOPE_GROUP: AntiAffinityScope
AGENT_VIEW_UNSPECIFIED: AgentView
AGENT_VIEW_BASIC: AgentView
AGENT_VIEW_FULL: AgentView

class RestartPolicy(_message.Message):
    __slots__ = ("mode", "max_restarts", "initial_backoff", "max_backoff", "reset_after")
    MODE_FIELD_NUMBER: _ClassVar[int]
    MAX_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_BACKOFF_FIELD_NUMBER: _ClassVar[int]
    MAX_BACKOFF_FIELD_NUMBER: _ClassVar[int]
    RESET_AFTER_FIELD_NUMBER: _ClassVar[int]
    mode: RestartMode
    max_restarts: int
    initial_backoff: _duration_pb2.Duration
    max_backoff: _duration_pb2.Duration
    reset_after: _duration_pb2.Duration
    def __init__(self, mode: _Optional[_Union[RestartMode, str]] = ..., max_restarts: _Optional[int] = ..., initial_backoff: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_backoff: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reset_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class PythonRuntime(_message.Message):
    __slots__ = ("profile",)
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    profile: str
    def __init__(self, profile: _Optional[str] = ...) -> None: ...

class CommandRuntime(_message.Message):
    __slots__ = ("argv",)
    ARGV_FIELD_NUMBER: _ClassVar[int]
    argv: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, argv: _Optional[_Iterable[str]] = ...) -> None: ...

class Runtime(_message.Message):
    __slots__ = ("python", "command")
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    python: PythonRuntime
    command: CommandRuntime
    def __init__(self, python: _Optional[_Union[PythonRuntime, _Mapping]] = ..., command: _Optional[_Union[CommandRuntime, _Mapping]] = ...) -> None: ...

class Confinement(_message.Message):
    __slots__ = ("level", "read_paths", "write_paths", "connect_ports")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    READ_PATHS_FIELD_NUMBER: _ClassVar[int]
    WRITE_PATHS_FIELD_NUMBER: _ClassVar[int]
    CONNECT_PORTS_FIELD_NUMBER: _ClassVar[int]
    level: ConfinementLevel
    read_paths: _containers.RepeatedScalarFieldContainer[str]
    write_paths: _containers.RepeatedScalarFieldContainer[str]
    connect_ports: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, level: _Optional[_Union[ConfinementLevel, str]] = ..., read_paths: _Optional[_Iterable[str]] = ..., write_paths: _Optional[_Iterable[str]] = ..., connect_ports: _Optional[_Iterable[int]] = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("required_labels", "preferred_labels", "anti_affinities", "movable")
    class RequiredLabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class PreferredLabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUIRED_LABELS_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_LABELS_FIELD_NUMBER: _ClassVar[int]
    ANTI_AFFINITIES_FIELD_NUMBER: _ClassVar[int]
    MOVABLE_FIELD_NUMBER: _ClassVar[int]
    required_labels: _containers.ScalarMap[str, str]
    preferred_labels: _containers.ScalarMap[str, str]
    anti_affinities: _containers.RepeatedCompositeFieldContainer[AntiAffinity]
    movable: bool
    def __init__(self, required_labels: _Optional[_Mapping[str, str]] = ..., preferred_labels: _Optional[_Mapping[str, str]] = ..., anti_affinities: _Optional[_Iterable[_Union[AntiAffinity, _Mapping]]] = ..., movable: bool = ...) -> None: ...

class AntiAffinity(_message.Message):
    __slots__ = ("scope", "group", "across", "preferred")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    ACROSS_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_FIELD_NUMBER: _ClassVar[int]
    scope: AntiAffinityScope
    group: str
    across: str
    preferred: bool
    def __init__(self, scope: _Optional[_Union[AntiAffinityScope, str]] = ..., group: _Optional[str] = ..., across: _Optional[str] = ..., preferred: bool = ...) -> None: ...

class ConfinementStatus(_message.Message):
    __slots__ = ("level", "missing")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    level: ConfinementLevel
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, level: _Optional[_Union[ConfinementLevel, str]] = ..., missing: _Optional[_Iterable[str]] = ...) -> None: ...

class AgentLaunch(_message.Message):
    __slots__ = ("agent_spec", "guild_spec", "messaging_config", "client_type", "client_properties", "organization_id", "runtime", "environment", "restart_policy", "on_disconnect", "start_timeout", "liveness_timeout", "inherited_environment", "confinement", "placement")
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class InheritedEnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AGENT_SPEC_FIELD_NUMBER: _ClassVar[int]
    GUILD_SPEC_FIELD_NUMBER: _ClassVar[int]
    MESSAGING_CONFIG_FIELD_NUMBER: _ClassVar[int]
    CLIENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    RESTART_POLICY_FIELD_NUMBER: _ClassVar[int]
    ON_DISCONNECT_FIELD_NUMBER: _ClassVar[int]
    START_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    LIVENESS_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    INHERITED_ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    CONFINEMENT_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    agent_spec: str
    guild_spec: str
    messaging_config: str
    client_type: str
    client_properties: str
    organization_id: str
    runtime: Runtime
    environment: _containers.ScalarMap[str, str]
    restart_policy: RestartPolicy
    on_disconnect: OnDisconnect
    start_timeout: _duration_pb2.Duration
    liveness_timeout: _duration_pb2.Duration
    inherited_environment: _containers.ScalarMap[str, str]
    confinement: Confinement
    placement: Placement
    def __init__(self, agent_spec: _Optional[str] = ..., guild_spec: _Optional[str] = ..., messaging_config: _Optional[str] = ..., client_type: _Optional[str] = ..., client_properties: _Optional[str] = ..., organization_id: _Optional[str] = ..., runtime: _Optional[_Union[Runtime, _Mapping]] = ..., environment: _Optional[_Mapping[str, str]] = ..., restart_policy: _Optional[_Union[RestartPolicy, _Mapping]] = ..., on_disconnect: _Optional[_Union[OnDisconnect, str]] = ..., start_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., liveness_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., inherited_environment: _Optional[_Mapping[str, str]] = ..., confinement: _Optional[_Union[Confinement, _Mapping]] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ...) -> None: ...

class LastExit(_message.Message):
    __slots__ = ("code", "signal", "exit_time")
    CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    EXIT_TIME_FIELD_NUMBER: _ClassVar[int]
    code: int
    signal: int
    exit_time: _timestamp_pb2.Timestamp
    def __init__(self, code: _Optional[int] = ..., signal: _Optional[int] = ..., exit_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class StartTimings(_message.Message):
    __slots__ = ("claim", "admit", "spawn", "initialize", "host_total", "total", "queue", "advance", "host_call", "cold_reason")
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    ADMIT_FIELD_NUMBER: _ClassVar[int]
    SPAWN_FIELD_NUMBER: _ClassVar[int]
    IMPORT_FIELD_NUMBER: _ClassVar[int]
    INITIALIZE_FIELD_NUMBER: _ClassVar[int]
    HOST_TOTAL_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    ADVANCE_FIELD_NUMBER: _ClassVar[int]
    HOST_CALL_FIELD_NUMBER: _ClassVar[int]
    COLD_REASON_FIELD_NUMBER: _ClassVar[int]
    claim: _duration_pb2.Duration
    admit: _duration_pb2.Duration
    spawn: _duration_pb2.Duration
    initialize: _duration_pb2.Duration
    host_total: _duration_pb2.Duration
    total: _duration_pb2.Duration
    queue: _duration_pb2.Duration
    advance: _duration_pb2.Duration
    host_call: _duration_pb2.Duration
    cold_reason: str
    def __init__(self, claim: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., admit: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., spawn: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., initialize: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., host_total: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., total: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queue: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., advance: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., host_call: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cold_reason: _Optional[str] = ..., **kwargs) -> None: ...

class AgentUsage(_message.Message):
    __slots__ = ("pss_bytes", "private_bytes", "cpu_time", "threads", "scratch_bytes")
    PSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CPU_TIME_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    SCRATCH_BYTES_FIELD_NUMBER: _ClassVar[int]
    pss_bytes: int
    private_bytes: int
    cpu_time: _duration_pb2.Duration
    threads: int
    scratch_bytes: int
    def __init__(self, pss_bytes: _Optional[int] = ..., private_bytes: _Optional[int] = ..., cpu_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., threads: _Optional[int] = ..., scratch_bytes: _Optional[int] = ...) -> None: ...

class Agent(_message.Message):
    __slots__ = ("organization_id", "guild_id", "agent_id", "name", "phase", "host_id", "pid", "epoch", "restarts", "reason", "last_exit", "create_time", "last_running_time", "machine_id", "agent_spec", "usage", "last_lines", "message", "confinement", "devices")
    class DevicesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: DevicePart
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[DevicePart, _Mapping]] = ...) -> None: ...
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    GUILD_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LAST_EXIT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_RUNNING_TIME_FIELD_NUMBER: _ClassVar[int]
    MACHINE_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_SPEC_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LAST_LINES_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CONFINEMENT_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    organization_id: str
    guild_id: str
    agent_id: str
    name: str
    phase: AgentPhase
    host_id: str
    pid: int
    epoch: int
    restarts: int
    reason: str
    last_exit: LastExit
    create_time: _timestamp_pb2.Timestamp
    last_running_time: _timestamp_pb2.Timestamp
    machine_id: int
    agent_spec: str
    usage: AgentUsage
    last_lines: _containers.RepeatedScalarFieldContainer[str]
    message: str
    confinement: ConfinementStatus
    devices: _containers.MessageMap[str, DevicePart]
    def __init__(self, organization_id: _Optional[str] = ..., guild_id: _Optional[str] = ..., agent_id: _Optional[str] = ..., name: _Optional[str] = ..., phase: _Optional[_Union[AgentPhase, str]] = ..., host_id: _Optional[str] = ..., pid: _Optional[int] = ..., epoch: _Optional[int] = ..., restarts: _Optional[int] = ..., reason: _Optional[str] = ..., last_exit: _Optional[_Union[LastExit, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_running_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., machine_id: _Optional[int] = ..., agent_spec: _Optional[str] = ..., usage: _Optional[_Union[AgentUsage, _Mapping]] = ..., last_lines: _Optional[_Iterable[str]] = ..., message: _Optional[str] = ..., confinement: _Optional[_Union[ConfinementStatus, _Mapping]] = ..., devices: _Optional[_Mapping[str, DevicePart]] = ...) -> None: ...

class DevicePart(_message.Message):
    __slots__ = ("share", "memory_bytes")
    SHARE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    share: float
    memory_bytes: int
    def __init__(self, share: _Optional[float] = ..., memory_bytes: _Optional[int] = ...) -> None: ...
