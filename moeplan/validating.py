from planner.plan import Record


class Validation(Record):
    pass
