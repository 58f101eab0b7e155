"""What a running inference engine says of itself. Pure text in, measured facts out.

How sure a log format is, is said in each reader: llama.cpp's is tested on what a real server prints, those of vLLM
and SGLang on lines rebuilt from published start-up logs.
"""
