"""What llmbatch needs to know about providers besides LiteLLM: lines of input files, and Copilot's tokens."""
