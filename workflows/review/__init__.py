"""Review without a window: corrections, what they change, who made them, and the trail they leave."""
