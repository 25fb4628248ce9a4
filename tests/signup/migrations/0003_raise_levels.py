from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("signup", "0002_first_accounts")]

    operations = [
        migrations.RunSQL("UPDATE signup_account SET level = level + 10", migrations.RunSQL.noop),
    ]
