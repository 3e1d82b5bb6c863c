"""What the notebook calls: data, workflow, drawing, monitoring. Plain functions over boto3, pandas and matplotlib."""
