plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.android.library) apply false
    alias(libs.plugins.kotlin.android) apply false
}

// The tests want what tests/android/jvm.py lays out, and are told where by properties: elsewhere they are compiled only.
val told = System.getProperties().filterKeys { "$it".startsWith("lastmile.") }

subprojects {
    tasks.withType<Test>().configureEach {
        told.forEach { (name, value) -> systemProperty("$name", value) }
        onlyIf { told.isNotEmpty() }
    }
}
