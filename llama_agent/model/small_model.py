from llama_agent.model.modes import constrained as small_model
__all__ = ["small_model"]
