from django.db import migrations


def make_accounts(apps, schema_editor):
    """Write rows of the historical model, and of the project's model as many data migrations do."""
    from tests.signup.models import Account

    using = schema_editor.connection.alias
    historical = apps.get_model("signup", "Account")
    account = historical.objects.db_manager(using).create(name="historical")
    account.level = 1
    account.save()
    historical.objects.using(using).filter(name="historical").update(level=2)
    historical.objects.using(using).bulk_create([historical(name="bulk")])
    historical.objects.using(using).get(name="bulk").delete()
    account = Account.objects.using(using).create(name="imported")
    account.level = 1
    account.save()
    Account.objects.using(using).filter(name="imported").update(level=2)


class Migration(migrations.Migration):
    dependencies = [("signup", "0001_initial")]
    run_before = [("cachebackend", "0001_initial")]

    operations = [migrations.RunPython(make_accounts, migrations.RunPython.noop)]
