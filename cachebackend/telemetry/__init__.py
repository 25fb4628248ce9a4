"""What a process reports about itself: its kind and settings, its counters, and its periodic tasks.

``processes`` reports what the process is (``this_process``) and the settings that all processes must have in
common (``agreed_settings``); ``publisher`` adds the counters of this process to hashes on the nodes, which
sum all processes; ``shutdown`` publishes every few seconds and once more when the process ends; ``heartbeat``
records when a periodic task ran. May import ``backend`` and everything below it. Nothing that serves a
cached value waits for it or fails because of it.
"""
