from django.db import migrations, models

import cachebackend.models


class Migration(migrations.Migration):

    dependencies = [
        ('cachebackend', '0003_checkpoint_samples'),
    ]

    operations = [
        migrations.AddField(
            model_name='parkedwrite',
            name='retry_at',
            field=models.DateTimeField(help_text='When it is tried again by itself, because it waits for another row or for a lock; empty: a person retries it.', null=True),
        ),
        migrations.AlterField(
            model_name='parkedwrite',
            name='batch',
            field=models.PositiveBigIntegerField(help_text='The batch that held the write, or the last part of it.'),
        ),
        migrations.RemoveIndex(
            model_name='parkedwrite',
            name='ringcache_parked',
        ),
        migrations.AddIndex(
            model_name='parkedwrite',
            index=cachebackend.models.PrefixIndex(fields=['label', 'key'], name='ringcache_parked_row'),
        ),
        migrations.AddIndex(
            model_name='parkedwrite',
            index=models.Index(condition=models.Q(('retry_at__isnull', False)), fields=['retry_at'], name='ringcache_parked_retry'),
        ),
    ]
