"""Support for the tests: a writer of GGUF files, and the real llama.cpp that reads them."""
