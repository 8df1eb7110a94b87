"""AutoGen's workers join a host: the service ``agents.AgentRpc``, in ``service``."""
