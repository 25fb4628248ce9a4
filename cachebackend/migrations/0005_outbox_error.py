from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('cachebackend', '0004_waiting_parked_writes'),
    ]

    operations = [
        migrations.AddField(
            model_name='outboxrow',
            name='error',
            field=models.CharField(blank=True, db_default='', default='', help_text='Why the row cannot be read, if it is set aside.', max_length=500),
        ),
    ]
