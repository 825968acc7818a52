"""The service: files over HTTP, live sessions over WebSocket (docs/serve.md). Needs the extra `serve`."""
