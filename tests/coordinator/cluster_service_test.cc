int unused_scheduler_case;
