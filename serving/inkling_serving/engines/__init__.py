"""The engines, which run models: in this process or on other servers."""
