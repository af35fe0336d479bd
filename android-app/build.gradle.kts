plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.android.library) apply false
    alias(libs.plugins.kotlin.android) apply false
}

// The tests need files that tests/android/jvm.py creates; properties give their paths. Without the properties the tests are only compiled.
val testProperties = System.getProperties().filterKeys { "$it".startsWith("lastmile.") }

subprojects {
    tasks.withType<Test>().configureEach {
        testProperties.forEach { (name, value) -> systemProperty("$name", value) }
        onlyIf { testProperties.isNotEmpty() }
    }
}
