class EmbeddedServer:
    base_url: str
    api_key: str
    @classmethod
    def acquire(cls, spec: str) -> "EmbeddedServer": raise NotImplementedError
    def release(self) -> None: ...
