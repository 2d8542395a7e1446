"""What llmbatch must know of a provider besides LiteLLM: its batch lines, and Copilot's tokens."""
