from django.db import migrations, models

import tests.signup.models


class Migration(migrations.Migration):
    initial = True
    run_before = [("cachebackend", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="Account",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=50, unique=True)),
                ("level", models.IntegerField(default=0)),
            ],
            managers=[("objects", tests.signup.models.AccountManager())],
        ),
    ]
